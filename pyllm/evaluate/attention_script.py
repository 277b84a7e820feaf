"""What a page of attention is made of beside its numbers: head, style and the script that draws."""

HEAD = (
    "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
    "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'\"><meta name='viewport' content='width=device-width'>"
)

STYLE = """
:root{color-scheme:light dark;--ink:31,111,178;--line:#8884}
@media(prefers-color-scheme:dark){:root{--ink:107,179,238}}
body{font:15px/1.5 system-ui,sans-serif;margin:1.5rem;max-width:100rem}
h1{font-size:1.3rem;overflow-wrap:anywhere}h2{font-size:1.05rem;margin:1.5rem 0 .3rem}
.text{opacity:.8;max-width:60rem}
.grid{display:grid;gap:3px;overflow-x:auto;justify-content:start;align-items:center}
.grid span{font-size:11px;opacity:.7;text-align:right;padding-right:4px}
canvas{display:block;image-rendering:pixelated;border:1px solid var(--line)}
.grid canvas{width:52px;height:52px;cursor:pointer}.grid canvas.chosen{outline:2px solid rgb(var(--ink))}
.one{display:flex;flex-wrap:wrap;gap:2rem;align-items:flex-start;margin:.6rem 0 2rem}
.words{max-width:44rem;line-height:2}.words b{font-weight:400;border-radius:3px;padding:1px 0;white-space:pre-wrap}
.words.ask b{cursor:pointer}.words b.on{outline:2px solid rgb(var(--ink))}
.words i{font-style:normal;opacity:.6;font-size:12px;display:block;line-height:1.4}
.map{overflow:auto;max-width:100%}svg text{font:10px ui-monospace,monospace;fill:currentColor}
svg .hit{fill:transparent;cursor:crosshair}.said{min-height:1.5em}
""".strip()

# Weights lie as bytes: head after head, query after query, key after key.
SCRIPT = r"""
'use strict';
const get=name=>document.getElementById(name);
const make=(name,parent,props={})=>{
  const e=document.createElement(name);Object.assign(e,props);parent.append(e);return e};
const drawing=document.createElement('template');
drawing.innerHTML='<svg></svg>';
const shape=(name,parent,values)=>{
  const e=document.createElementNS(drawing.content.firstChild.namespaceURI,name);
  for(const k in values)e.setAttribute(k,values[k]);parent.append(e);return e};
const bytes=t=>Uint8Array.from(atob(t),c=>c.charCodeAt(0));
const ink=getComputedStyle(document.documentElement).getPropertyValue('--ink').split(',').map(Number);
const shown=t=>t.replace(/\n/g,'\u21b5').replace(/\t/g,'\u2192');
const cut=t=>{t=shown(t).trim()||'\u2423';return t.length>12?t.slice(0,11)+'\u2026':t};
const percent=v=>(v/2.55).toFixed(0)+' %';

function paint(canvas,w,rows,columns){
  canvas.width=columns;canvas.height=rows;
  const c=canvas.getContext('2d'),image=c.createImageData(columns,rows);
  for(let i=0;i<w.length;i++)image.data.set([...ink,w[i]],4*i);
  c.putImageData(image,0,0);
}

function section(group,parent){
  const rows=group.queries.length,columns=group.keys.length,size=rows*columns;
  if(group.title)make('h2',parent,{textContent:group.title});
  const most=Math.max(...group.heads);
  const grid=make('div',parent,{className:'grid'});
  grid.style.gridTemplateColumns='max-content repeat('+most+',54px)';
  make('span',grid);
  for(let h=0;h<most;h++)make('span',grid,{textContent:'head '+(h+1)});
  const one=make('div',parent,{className:'one'});
  let chosen=null;
  group.layers.forEach((text,l)=>{
    const all=bytes(text);
    make('span',grid,{textContent:'layer '+(l+1)});
    for(let h=0;h<most;h++){
      if(h>=group.heads[l]){make('span',grid);continue}
      const w=all.subarray(h*size,(h+1)*size),canvas=make('canvas',grid,{title:'layer '+(l+1)+', head '+(h+1)});
      paint(canvas,w,rows,columns);
      canvas.onclick=()=>{if(chosen)chosen.className='';chosen=canvas;canvas.className='chosen';
        head(one,group,w,'layer '+(l+1)+', head '+(h+1))};
      if(l===0&&h===0)canvas.onclick();
    }
  });
}

function head(parent,group,w,title){
  parent.replaceChildren();
  const rows=group.queries.length,columns=group.keys.length;
  const left=make('div',parent),right=make('div',parent,{className:'map'});
  make('h2',left,{textContent:title});
  const said=make('div',left,{className:'said'});
  const words=(names,note,ask)=>{const p=make('div',left,{className:'words'+(ask?' ask':'')});
    make('i',p,{textContent:note});return names.map(t=>make('b',p,{textContent:shown(t)}))};
  const same=group.queries===group.keys||group.queries.join('\0')===group.keys.join('\0');
  const asks=words(group.queries,'point at a token to see where it looks',true);
  const seen=same?asks:words(group.keys,'what it looks at',false);
  const show=q=>{
    asks.forEach((e,i)=>e.classList.toggle('on',i===q));
    let best=0;
    seen.forEach((e,k)=>{const v=w[q*columns+k];if(v>w[q*columns+best])best=k;
      e.style.background='rgba('+ink+','+v/255+')';e.title=percent(v)});
    said.textContent='\u201c'+shown(group.queries[q])+'\u201d looks most at \u201c'+shown(group.keys[best])+'\u201d: '
      +percent(w[q*columns+best]);
  };
  asks.forEach((e,q)=>{e.onmouseenter=()=>show(q);e.onclick=()=>show(q)});
  const cell=Math.max(5,Math.min(18,Math.floor(720/Math.max(rows,columns)))),label=cell>9?90:4,step=cell;
  const svg=shape('svg',right,{width:label+columns*step+2,height:label+rows*step+2});
  for(let q=0;q<rows;q++)for(let k=0;k<columns;k++){
    const v=w[q*columns+k];
    if(v)shape('rect',svg,{x:label+k*step,y:label+q*step,width:step,height:step,fill:'rgba('+ink+','+v/255+')'});
  }
  shape('rect',svg,{x:label,y:label,width:columns*step,height:rows*step,fill:'none',stroke:'#8888'});
  if(label>4){
    group.queries.forEach((t,q)=>{shape('text',svg,{x:label-5,y:label+q*step+step*.7,'text-anchor':'end'})
      .textContent=cut(t)});
    group.keys.forEach((t,k)=>{const x=label+k*step+step*.7,y=label-5;
      shape('text',svg,{x,y,transform:'rotate(-90 '+x+' '+y+')'}).textContent=cut(t)});
  }
  const hit=shape('rect',svg,{x:label,y:label,width:columns*step,height:rows*step,'class':'hit'});
  hit.onmousemove=e=>{const box=hit.getBoundingClientRect(),q=Math.floor((e.clientY-box.top)/step),
    k=Math.floor((e.clientX-box.left)/step);
    if(q<0||q>=rows||k<0||k>=columns)return;
    show(q);
    said.textContent='\u201c'+shown(group.queries[q])+'\u201d at \u201c'+shown(group.keys[k])+'\u201d: '
      +percent(w[q*columns+k])};
  show(rows-1);
}

for(const group of JSON.parse(get('data').textContent))section(group,get('page'));
""".strip()
